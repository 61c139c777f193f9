-- A customer orders three products: one order, its lines, the stock that leaves.
\set customer random(1, 5000)
\set a random_zipfian(1, 1000, 1.05)
\set b random(1, 1000)
\set c random(1, 1000)
BEGIN;
INSERT INTO orders (customer_id, total) VALUES (:customer, 0) RETURNING id AS order_id \gset
-- Locked in one order, so that two customers never wait for each other in a circle.
SELECT count(*) AS locked FROM (SELECT id FROM products WHERE id IN (:a, :b, :c) ORDER BY id FOR UPDATE) AS p \gset
INSERT INTO order_items (order_id, line, product_id, quantity, unit_price)
SELECT :order_id, row_number() OVER (ORDER BY id), id, 1 + :customer % 3, price FROM products WHERE id IN (:a, :b, :c);
INSERT INTO stock_moves (product_id, quantity, reason)
SELECT product_id, -quantity, 'sale' FROM order_items WHERE order_id = :order_id;
UPDATE products p SET stock = stock - i.quantity FROM order_items i WHERE i.order_id = :order_id AND i.product_id = p.id;
UPDATE orders SET total = (SELECT sum(quantity * unit_price) FROM order_items WHERE order_id = :order_id) WHERE id = :order_id;
COMMIT;
