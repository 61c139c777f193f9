-- One customer joins, another moves house.
\set customer random(1, 5000)
BEGIN;
INSERT INTO customers (email, name, address) VALUES (gen_random_uuid() || '@example.org', 'New customer', '{"city": "Bremen"}');
UPDATE customers SET address = jsonb_set(address, '{street}', to_jsonb('Street ' || :customer % 53)) WHERE id = :customer;
COMMIT;
