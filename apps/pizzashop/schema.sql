-- The pizza shop's tables. MySQL 8.0 or newer.

CREATE DATABASE IF NOT EXISTS pizzashop CHARACTER SET utf8mb4;
USE pizzashop;

CREATE TABLE IF NOT EXISTS products (
    id          SERIAL PRIMARY KEY,
    name        VARCHAR(100),
    description VARCHAR(500),
    category    VARCHAR(100),
    price       FLOAT,                     -- rupees
    image       VARCHAR(200),
    created_at  TIMESTAMP NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at  DATETIME DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP
);

CREATE TABLE IF NOT EXISTS users (
    id         SERIAL PRIMARY KEY,
    first_name VARCHAR(255),
    last_name  VARCHAR(255),
    email      VARCHAR(255),
    residence  VARCHAR(500),
    lat        DECIMAL(10, 8),
    lon        DECIMAL(10, 8),             -- two digits before the point: enough for Bengaluru, not for the world
    created_at TIMESTAMP NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at DATETIME DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP
);
