-- What was captured of a sandbox, and what sandboxes are made from.
create table snapshots (
    id text primary key,
    owner_id text not null,
    host_id text not null references hosts (id),
    -- What its owner calls it; null where nobody named it.
    name text,
    -- The name that it takes from another snapshot when it is ready.
    takes_name text,
    kind text not null check (kind in ('named', 'fork')),
    status text not null check (status in ('pending', 'ready', 'deleting')),
    -- What was captured; its record may be gone.
    sandbox_id text not null,
    template text not null,
    -- The build that the sandbox was made from; empty until builds have ids.
    template_build text not null default '',
    vcpus integer not null,
    memory_mb integer not null,
    disk_mb integer not null,
    -- What its files take on the host's disk; 0 until it is ready.
    size_bytes bigint not null default 0,
    created_at bigint not null,
    -- When a sandbox was last made from it.
    last_used_at bigint,
    last_updated bigint not null
);

-- Snapshots without a name are not in each other's way.
create unique index idx_snapshots_name on snapshots (owner_id, name);
create index idx_snapshots_owner_created on snapshots (owner_id, created_at);

-- What a sandbox was made from, where that was a snapshot; it may be gone.
alter table sandboxes add column snapshot_id text;
-- Whether a call that needs the guest resumes it first: 1 or 0.
alter table sandboxes add column auto_resume integer not null default 0;

create index idx_sandboxes_snapshot on sandboxes (snapshot_id);
