-- The SHA-256 of the token that callers of a private sandbox's ports must show; null where everybody may call who knows
-- its id.
alter table sandboxes add column traffic_token_hash text;
