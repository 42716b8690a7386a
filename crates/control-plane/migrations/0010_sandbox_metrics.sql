-- What a sandbox had used when it was paused: its host forgets that then.
create table sandbox_metrics (
    sandbox_id text not null references sandboxes (id) on delete cascade,
    -- How far it reaches back.
    series text not null check (series in ('10m', '2h', '24h')),
    -- Oldest first, as a JSON array: read back whole.
    points text not null,
    primary key (sandbox_id, series)
);
