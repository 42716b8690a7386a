-- What a sandbox may reach, as JSON; what it does not say is the default.
alter table sandboxes add column network text not null default '{}';
