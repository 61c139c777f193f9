-- Prices of a few products change.
\set first random(1, 990)
\set percent random(90, 111)
UPDATE products SET price = greatest(1, round(price * :percent / 100, 2))
 WHERE id IN (SELECT id FROM products WHERE id BETWEEN :first AND :first + 4 ORDER BY id FOR UPDATE);
