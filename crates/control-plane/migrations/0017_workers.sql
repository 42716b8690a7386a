-- The number of the control plane that changed a sandbox's status last: what is under way there, it works on. 0: not known.
alter table sandboxes add column worker bigint not null default 0;
