-- Which key the tokens in `sandboxes.guest_access` are sealed with: one for all control planes. The key is in no database.
-- `guest_access` is from now on null, 'open', or 'sealed:1:KEY:DIGEST:SEALED': the key's id, the token's SHA-256, and the
-- token under AES-256-GCM. Tokens that are there as they are get sealed when the next control plane starts.
create table token_key (
    only_one bigint primary key check (only_one = 1),
    id text not null
);
