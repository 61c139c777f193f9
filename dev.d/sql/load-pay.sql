-- The oldest open order is paid.
BEGIN;
WITH next AS (SELECT id FROM orders WHERE status = 'placed' ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED),
     paid AS (UPDATE orders o SET status = 'paid' FROM next WHERE o.id = next.id RETURNING o.id, o.total)
INSERT INTO payments (order_id, amount, method) SELECT id, total, (ARRAY['card', 'transfer', 'cash'])[1 + id % 3] FROM paid;
COMMIT;
