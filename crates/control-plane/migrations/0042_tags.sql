-- What else than by its name, which is the tag `default`, a template or a snapshot is called: NAME:TAG.
create table tags (
    owner_id text not null,
    -- The name or, of a snapshot without one, the id.
    template text not null,
    tag text not null,
    -- The snapshot that is meant; null where that is the server's own template of this name.
    snapshot_id text references snapshots (id) on delete cascade,
    assigned_at bigint not null,
    primary key (owner_id, template, tag)
);

create index idx_tags_snapshot on tags (snapshot_id);

-- With which tag a snapshot takes its name when it is ready; null where that is `default`.
alter table snapshots add column takes_tag text;
