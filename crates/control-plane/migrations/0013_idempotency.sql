-- Keys that clients give to requests which they may have to repeat: the same key is the same request, done once.
create table idempotency_keys (
    owner_id text not null,
    -- What is done once: 'create', or the id of the sandbox in which a command runs.
    scope text not null,
    name text not null,
    -- SHA-256 of the request, in hex.
    request text not null,
    -- What was made, or where the command runs. A record that goes takes its keys along.
    sandbox_id text not null references sandboxes (id) on delete cascade,
    -- What came of a command, as JSON; null as long as it runs.
    answer text,
    created_at bigint not null,
    -- When whoever runs the command last said that it does.
    renewed_at bigint not null,
    primary key (owner_id, scope, name)
);

create index idx_idempotency_keys_created on idempotency_keys (created_at);
create index idx_idempotency_keys_sandbox on idempotency_keys (sandbox_id);
