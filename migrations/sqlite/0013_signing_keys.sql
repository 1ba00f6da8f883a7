-- The key pairs of ed25519, of which the private key is stored, and how a destination's requests are signed. A null
-- `signing_key` is filled at the start.
alter table apps add column signing_key text;
alter table apps add column old_signing_key text;
alter table watch_destinations add column options text;
