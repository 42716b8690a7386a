-- Keys are never removed, only revoked: a server that once asked for keys does not stop asking.
create table api_keys (
    -- The first 8 hex digits of the key itself: enough to find it, far too little to guess the rest.
    id text primary key,
    owner_id text not null,
    name text not null default '',
    -- SHA-256 of the whole key, in hex. A key has 160 random bits, so it needs no slow hash.
    hash text not null,
    created_at bigint not null,
    revoked_at bigint
);
