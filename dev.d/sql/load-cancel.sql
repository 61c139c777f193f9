-- The newest open order is cancelled and its goods go back to the shelf (0 when there is no open order).
BEGIN;
SELECT coalesce((SELECT id FROM orders WHERE status = 'placed' ORDER BY id DESC LIMIT 1 FOR UPDATE SKIP LOCKED), 0) AS order_id \gset
SELECT count(*) AS locked FROM
  (SELECT id FROM products WHERE id IN (SELECT product_id FROM order_items WHERE order_id = :order_id) ORDER BY id FOR UPDATE) AS p \gset
UPDATE orders SET status = 'cancelled' WHERE id = :order_id;
INSERT INTO stock_moves (product_id, quantity, reason)
SELECT product_id, quantity, 'cancelled' FROM order_items WHERE order_id = :order_id;
UPDATE products p SET stock = stock + i.quantity FROM order_items i WHERE i.order_id = :order_id AND i.product_id = p.id;
COMMIT;
