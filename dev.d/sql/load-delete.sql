-- The oldest cancelled order is deleted for good, its lines with it (ON DELETE CASCADE).
DELETE FROM orders WHERE id IN (SELECT id FROM orders WHERE status = 'cancelled' ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED);
