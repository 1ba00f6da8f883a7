-- Parameters of more than 1,024 bytes: all of them. `params`, a part of the key, is then their hash, because an index row
-- holds 2,704 bytes.
alter table jobs add column long_params text;
update jobs set long_params = params, params = 'sha256:' || encode(sha256(convert_to(params, 'UTF8')), 'hex')
  where octet_length(params) > 1024;
