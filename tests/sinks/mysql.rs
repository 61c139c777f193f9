//! What is particular to MySQL and MariaDB followers, on real servers of both versions.

mod changes;
mod fencing;
mod harness;
mod keys;
mod moving;
mod shapes;
mod speed;
mod types;
