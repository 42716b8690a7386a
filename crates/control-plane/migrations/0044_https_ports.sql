-- The ports whose servers in a sandbox speak TLS, as numbers with commas between.
alter table sandboxes add column https_ports text not null default '';
