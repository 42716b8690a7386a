-- Whether a stopped sandbox's disk is kept, so that it can be started from it: 1 or 0. A restart of its machine leaves it so.
alter table sandboxes add column keeps_disk integer not null default 0;
