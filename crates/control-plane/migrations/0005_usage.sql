-- What each owner had running, as it was looked at every few seconds; of one step of time, the largest.
create table usage_samples (
    owner_id text not null,
    -- The length of a step in seconds. Long steps are kept for longer.
    step integer not null,
    -- Its beginning.
    at bigint not null,
    running bigint not null,
    vcpus bigint not null,
    memory_mb bigint not null,
    primary key (owner_id, step, at)
);

create index idx_usage_samples_age on usage_samples (step, at);

-- What it adds up to in a day (UTC): virtual processors and memory times milliseconds.
create table usage_days (
    owner_id text not null,
    day bigint not null,
    vcpu_ms bigint not null,
    memory_mb_ms bigint not null,
    primary key (owner_id, day)
);
