import { ACCOUNT_COLUMNS, accountRows, count, loop, type Workload } from './catchup-workload.ts';

const WIDE_TYPES = ['int', 'bigint', 'numeric(12, 3)', 'text', 'double precision', 'boolean', 'date', 'varchar(40)', 'real', 'smallint'];

/** Of other shapes than anything that was tuned on; run once, at the end. */
export const HELD_OUT: readonly Workload[] = [
  {
    name: 'shop',
    title: 'held out: five tables with foreign keys, 100 k orders of three lines with payments of stock and balance, a commit each',
    target: null,
    tables: ['customers', 'products', 'orders', 'lines', 'payments'],
    schema: `
      CREATE TABLE customers (id int PRIMARY KEY, name text NOT NULL, balance numeric(14, 2) NOT NULL, seen timestamptz);
      CREATE TABLE products (id int PRIMARY KEY, name text NOT NULL, price numeric(10, 2) NOT NULL, stock int NOT NULL);
      CREATE TABLE orders (id bigint PRIMARY KEY, customer int NOT NULL REFERENCES customers, status text NOT NULL, at timestamptz NOT NULL);
      CREATE TABLE lines (order_id bigint NOT NULL REFERENCES orders, line int NOT NULL, product int NOT NULL REFERENCES products,
        amount int NOT NULL, price numeric(10, 2) NOT NULL, PRIMARY KEY (order_id, line));
      CREATE TABLE payments (id bigint PRIMARY KEY, order_id bigint NOT NULL REFERENCES orders, sum numeric(14, 2) NOT NULL, at timestamptz NOT NULL)`,
    base: (scale) => {
      const orders = count(50_000, scale);
      return `INSERT INTO customers SELECT g, 'customer ' || g, 0, NULL FROM generate_series(1, 20000) g;
        INSERT INTO products SELECT g, 'product ' || g, g % 97 + 0.99, 1000000 FROM generate_series(1, 2000) g;
        INSERT INTO orders SELECT g, 1 + g % 20000, 'open', clock_timestamp() FROM generate_series(1, ${orders}) g;
        INSERT INTO lines SELECT g, l, 1 + (g * 7 + l) % 2000, 1, 9.99 FROM generate_series(1, ${orders}) g, generate_series(1, 3) l;
        INSERT INTO payments VALUES (0, 1, 0, clock_timestamp())`;
    },
    load: (scale) => {
      const orders = count(50_000, scale);
      const statement = `
        k := ${orders} + i; c := 1 + floor(random() * 20000); p := 1 + floor(power(random(), 3) * 2000);
        INSERT INTO orders VALUES (k, c, 'open', clock_timestamp());
        INSERT INTO lines SELECT k, l, 1 + floor(random() * 2000)::int, l, 9.99 FROM generate_series(1, 3) l;
        UPDATE products SET stock = stock - 1 WHERE id = p;
        UPDATE customers SET balance = balance + 29.97, seen = clock_timestamp() WHERE id = c;
        IF i % 2 = 0 THEN
          o := 1 + floor(random() * k)::bigint;
          UPDATE orders SET status = 'paid' WHERE id = o;
          INSERT INTO payments VALUES (i, k, 29.97, clock_timestamp());
        END IF;`;
      return loop(count(100_000, scale), 1, statement, 'c int; p int; o bigint;');
    },
  },
  {
    name: 'wide',
    title: 'held out: 60 columns of mixed types, 200 k rows, 200 k updates of three of them, 50 k inserts, 50 a transaction',
    target: null,
    tables: ['wide'],
    schema: `CREATE TABLE wide (id int PRIMARY KEY, ${wideColumns()})`,
    base: (scale) => `INSERT INTO wide SELECT ${wideValues('g')} FROM generate_series(1, ${count(200_000, scale)}) g`,
    load: (scale) => {
      const rows = count(200_000, scale);
      const statement = `
        k := 1 + floor(random() * ${rows})::bigint;
        IF i % 5 = 0 THEN INSERT INTO wide SELECT ${wideValues('g')} FROM generate_series(${rows} + i, ${rows} + i) g;
        ELSE UPDATE wide SET c0 = c0 + 1, c11 = 'changed ' || i, c22 = clock_timestamp() WHERE id = k; END IF;`;
      return loop(count(250_000, scale), 50, statement);
    },
  },
  {
    name: 'uuid',
    title: 'held out: 1 M inserts under random uuid keys among 500 k rows, 200 a transaction',
    target: null,
    tables: ['uuids'],
    schema: 'CREATE TABLE uuids (id uuid PRIMARY KEY, owner uuid NOT NULL, state smallint NOT NULL, title text, at timestamptz NOT NULL)',
    base: (scale) => uuidRows(count(500_000, scale)),
    load: (scale) => loop(count(1_000_000, scale) / 200, 1, `${uuidRows(200)};`),
  },
  {
    name: 'purge',
    title: 'held out: 1 M deletes of the oldest of 1.5 M rows in ranges of 500, 200 k inserts between',
    target: null,
    tables: ['purge'],
    schema: `CREATE TABLE purge (${ACCOUNT_COLUMNS})`,
    base: (scale) => accountRows('purge', '1', count(1_500_000, scale)),
    load: (scale) => {
      const rows = count(1_500_000, scale);
      const statement = `
        DELETE FROM purge WHERE id > (i - 1)::bigint * 500 AND id <= i::bigint * 500;
        ${accountRows('purge', `${rows} + (i - 1)::bigint * 100 + 1`, `${rows} + i::bigint * 100`)};`;
      return loop(count(1_000_000, scale) / 500, 1, statement);
    },
  },
  {
    name: 'jsonb',
    title: 'held out: 400 k updates of a field in documents of about 1 KB, 200 k rows with a text key, 20 a transaction',
    target: null,
    tables: ['documents'],
    schema: 'CREATE TABLE documents (id text PRIMARY KEY, body jsonb NOT NULL, version int NOT NULL)',
    base: (scale) => `INSERT INTO documents SELECT 'document-' || g, jsonb_build_object('title', 'document ' || g, 'views', 0, 'tags',
        jsonb_build_array('red', 'green', g % 13), 'text', (SELECT string_agg(md5((g * 40 + n)::text), ' ') FROM generate_series(1, 28) n)), 1
      FROM generate_series(1, ${count(200_000, scale)}) g`,
    load: (scale) => {
      const statement = `k := 1 + floor(random() * ${count(200_000, scale)})::bigint; UPDATE documents SET body = jsonb_set(body, '{views}', to_jsonb(i)), version = version + 1
        WHERE id = 'document-' || k;`;
      return loop(count(400_000, scale), 20, statement);
    },
  },
];

function uuidRows(rows: number): string {
  return `INSERT INTO uuids SELECT gen_random_uuid(), gen_random_uuid(), g % 5, 'title ' || g, clock_timestamp() FROM generate_series(1, ${rows}) g`;
}

/** c0 … c58; c11 and c22 are of fixed types, because the load changes them. */
function wideColumns(): string {
  return Array.from({ length: 59 }, (_, index) => {
    if (index === 11) return 'c11 text';
    if (index === 22) return 'c22 timestamptz';
    return `c${index} ${WIDE_TYPES[index % WIDE_TYPES.length]}`;
  }).join(', ');
}

function wideValues(g: string): string {
  const byType = [
    g,
    `${g}::bigint * 1000003`,
    `${g} / 7.0`,
    `'text of ' || ${g}`,
    `${g} / 3.0`,
    `${g} % 2 = 0`,
    `DATE '2020-01-01' + ${g} % 2000`,
    `'varying ' || ${g}`,
    `${g} % 1000`,
    `${g} % 30000`,
  ];
  const values = Array.from({ length: 59 }, (_, index) => {
    if (index === 11) return `'fixed ' || ${g}`;
    if (index === 22) return 'clock_timestamp()';
    return index % 8 === 7 ? 'NULL' : (byType[index % byType.length] as string);
  });
  return [g, ...values].join(', ');
}
