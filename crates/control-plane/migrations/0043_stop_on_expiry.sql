-- Whether expiry, where on_expiry is 'pause', keeps the disk alone: 1 or 0. A column of its own, because SQLite cannot
-- change what the other's check lets in.
alter table sandboxes add column stops_on_expiry integer not null default 0;
