-- What its owner says of a sandbox, as a JSON object of texts: read back whole.
alter table sandboxes add column metadata text not null default '{}';

-- The same pair by pair, to be searched.
create table sandbox_metadata (
    sandbox_id text not null references sandboxes (id) on delete cascade,
    name text not null,
    value text not null,
    primary key (sandbox_id, name)
);

create index idx_sandbox_metadata_pair on sandbox_metadata (name, value);
