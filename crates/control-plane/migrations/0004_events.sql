-- What happened, for those who listen: the newest some thousands.
create table events (
    -- Grows in the order of the commits.
    id bigint primary key,
    -- Whom it concerns; null: everybody.
    owner_id text,
    at bigint not null,
    kind text not null,
    -- What it happened to.
    resource_type text not null,
    resource_id text not null,
    -- Everything else, as a JSON object.
    details text not null
);

create index idx_events_owner on events (owner_id, id);

-- One row. Whoever takes the next number holds it until the commit, so that nobody reads past an event that is still
-- on its way.
create table event_sequence (
    one integer primary key check (one = 1),
    last bigint not null
);

insert into event_sequence (one, last) values (1, 0);
