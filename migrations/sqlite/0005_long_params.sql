-- Parameters of more than 1,024 bytes: all of them. `params`, a part of the key, is then their hash, because an index row
-- of PostgreSQL holds 2,704 bytes.
alter table jobs add column long_params text;
-- `params_key` is a function of this program.
update jobs set long_params = params, params = params_key(params) where length(cast(params as blob)) > 1024;
