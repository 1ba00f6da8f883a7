-- How the requests to a saved destination are signed and authenticated (JSON), and its TLS identity: certificates and
-- key in PEM (JSON). Both are sealed like other secrets.
alter table destinations add column options text;
alter table destinations add column tls text;
