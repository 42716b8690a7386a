-- Who may speak with a sandbox's guest agent directly: null is nobody, 'open' everybody who knows its id, else the token
-- that callers must show. The token is kept as it is, since its owner is told it again with every answer.
alter table sandboxes add column guest_access text;
-- Environment of every process in it, as JSON.
alter table sandboxes add column env text not null default '{}';
-- When its time is over, used or not; null where only `lifetime` says when it ends.
alter table sandboxes add column ends_at bigint;

create index idx_sandboxes_ends_at on sandboxes (ends_at);
