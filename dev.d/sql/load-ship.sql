-- The three oldest paid orders leave the house together.
UPDATE orders SET status = 'shipped', shipped_at = clock_timestamp()
 WHERE id IN (SELECT id FROM orders WHERE status = 'paid' ORDER BY id LIMIT 3 FOR UPDATE SKIP LOCKED);
