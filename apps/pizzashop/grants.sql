-- The user Larder connects as: it reads the two tables and follows the binlog; it can change nothing.
-- The password is for demonstrations; larder.toml takes another one from MYSQL_PASSWORD.

CREATE USER IF NOT EXISTS 'larder'@'%' IDENTIFIED BY 'larder';
GRANT SELECT ON pizzashop.* TO 'larder'@'%';
GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO 'larder'@'%';
