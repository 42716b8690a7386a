-- The Host that servers in a sandbox see, `${PORT}` standing for the port that was called; null where they see the one that
-- was called.
alter table sandboxes add column request_host text;
