-- One text for SQLite and PostgreSQL: only text, integer and bigint; times are milliseconds since 1970 (UTC).

create table hosts (
    id text primary key,
    -- What the host agent says of itself; empty until it first answered.
    instance_id text not null default '',
    version text not null default '',
    accelerator text not null default '',
    vmm_version text not null default '',
    created_at bigint not null,
    last_seen_at bigint
);

insert into hosts (id, created_at) values ('default', 0);

create table sandboxes (
    id text primary key,
    owner_id text not null default '',
    host_id text not null default 'default' references hosts (id),
    template text not null default 'minimal',
    -- The build that the sandbox was made from; empty until builds have ids.
    template_build text not null default '',
    status text not null default 'pending' check (status in (
        'pending', 'running', 'pausing', 'paused', 'resuming', 'snapshotting', 'stopping', 'stopped', 'missing', 'error'
    )),
    -- Why it is stopped or in error; empty where there is nothing to say.
    status_reason text not null default '',
    -- Grows with every change of status: an update names the generation that it was decided on.
    generation bigint not null default 1,
    vcpus integer not null default 1,
    memory_mb integer not null default 512,
    disk_mb integer not null default 5120,
    lifetime text not null default 'idle' check (lifetime in ('never', 'idle', 'deadline')),
    -- The seconds of an idle lifetime, else 0.
    timeout_sec bigint not null default 300,
    -- The end of a deadline lifetime, else null.
    expires_at bigint,
    on_expiry text not null default 'destroy' check (on_expiry in ('destroy', 'pause')),
    guest_ip text not null default '',
    host_ip text not null default '',
    created_at bigint not null,
    started_at bigint,
    last_active_at bigint,
    last_updated bigint not null
);

create index idx_sandboxes_status on sandboxes (status);
create index idx_sandboxes_host_status on sandboxes (host_id, status);
create index idx_sandboxes_owner_created on sandboxes (owner_id, created_at);
