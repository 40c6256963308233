import { DatabaseSync, type StatementSync } from 'node:sqlite';
import { randomIntegers } from './measuring.ts';

/** A SQLite primary of a given size, and an application that changes it: two tables of about 115 and 250 bytes a row, WAL. */

const SCHEMA = `
CREATE TABLE account (
  id INTEGER PRIMARY KEY, owner TEXT NOT NULL, email TEXT NOT NULL, balance INTEGER NOT NULL, rate REAL NOT NULL, changed_at TEXT NOT NULL
);
CREATE TABLE purchase (
  id INTEGER PRIMARY KEY, account_id INTEGER NOT NULL, status TEXT NOT NULL, total INTEGER NOT NULL, placed_at TEXT NOT NULL, note TEXT
);
CREATE INDEX purchase_account ON purchase (account_id);`;

const STATUSES = ['placed', 'paid', 'packed', 'sent', 'returned'] as const;
const LETTERS = 'abcdefghijklmnopqrstuvwxyz     ';
/** Rows an application's transaction changes. */
const TRANSACTION_ROWS = 100;

type ChangeStatements = Readonly<Record<'updateAccount' | 'updatePurchase' | 'deleteAccount' | 'deletePurchase', StatementSync>>;

export class SqliteApplication implements Disposable {
  readonly #db: DatabaseSync;
  readonly #random: (below: number) => number;
  readonly #insert: Record<'account' | 'purchase', StatementSync>;
  readonly #last = { account: 0, purchase: 0 };
  readonly #text: string;

  private constructor(path: string, seed: number) {
    this.#db = new DatabaseSync(path);
    this.#db.exec('PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA cache_size = -65536');
    this.#db.exec(SCHEMA);
    this.#random = randomIntegers(seed);
    this.#text = Array.from({ length: 20_000 }, () => LETTERS[this.#random(LETTERS.length)]).join('');
    this.#insert = {
      account: this.#db.prepare('INSERT INTO account VALUES (?, ?, ?, ?, ?, ?)'),
      purchase: this.#db.prepare('INSERT INTO purchase VALUES (?, ?, ?, ?, ?, ?)'),
    };
  }

  /** Makes the file and fills it up to a size. */
  static create(path: string, bytes: number, seed = 1): SqliteApplication {
    const application = new SqliteApplication(path, seed);
    application.#db.exec('PRAGMA synchronous = OFF');
    while (application.bytes < bytes) {
      application.#transaction(() => {
        for (let row = 0; row < 5000; row++) {
          application.#add('account');
          application.#add('purchase');
        }
        return 10_000;
      });
    }
    application.#db.exec('PRAGMA wal_checkpoint(TRUNCATE); PRAGMA synchronous = NORMAL');
    return application;
  }

  get bytes(): number {
    const { pages } = this.#db.prepare('SELECT page_count * page_size AS pages FROM pragma_page_count, pragma_page_size').get() as {
      pages: number;
    };
    return pages;
  }

  get rows(): number {
    return this.#last.account + this.#last.purchase;
  }

  /**
   * Changes a share of the rows, chosen uniformly: 90 % updates of two columns, 5 % inserts, 5 % deletes, in transactions of a hundred.
   * Returns how many rows were changed. Ends with a checkpoint, so that what is measured next does not pay for the application's log.
   */
  change(share: number): number {
    const statements: ChangeStatements = {
      updateAccount: this.#db.prepare('UPDATE account SET balance = balance + ?, changed_at = ? WHERE id = ?'),
      updatePurchase: this.#db.prepare('UPDATE purchase SET status = ?, total = total + ? WHERE id = ?'),
      deleteAccount: this.#db.prepare('DELETE FROM account WHERE id = ?'),
      deletePurchase: this.#db.prepare('DELETE FROM purchase WHERE id = ?'),
    };
    let left = Math.round(this.rows * share);
    const wanted = left;
    while (left > 0) {
      const most = Math.min(left, TRANSACTION_ROWS);
      left -= this.#transaction(() => this.#changeRows(statements, most));
    }
    this.#db.exec('PRAGMA wal_checkpoint(PASSIVE)');
    return wanted - left;
  }

  [Symbol.dispose](): void {
    this.#db.close();
  }

  #add(table: 'account' | 'purchase'): number {
    const id = ++this.#last[table];
    if (table === 'account') {
      const owner = this.#words(22);
      this.#insert.account.run(
        id,
        owner,
        `${owner.replaceAll(' ', '.')}@example.org`,
        this.#random(1e9),
        this.#random(1e6) / 7,
        this.#moment(),
      );
    } else {
      const note = this.#words(170 + this.#random(50));
      this.#insert.purchase.run(id, 1 + this.#random(id), this.#status(), this.#random(1e6), this.#moment(), note);
    }
    return 1;
  }

  /** So many draws, of which those that hit a deleted row change nothing. */
  #changeRows(statements: ChangeStatements, draws: number): number {
    let changed = 0;
    for (let draw = 0; draw < draws; draw++) {
      const table = this.#random(2) === 0 ? 'account' : 'purchase';
      const id = 1 + this.#random(this.#last[table]);
      const kind = this.#random(100);
      if (kind < 5) changed += this.#add(table);
      else if (kind < 10) changed += changesOf(statements[table === 'account' ? 'deleteAccount' : 'deletePurchase'].run(id));
      else if (table === 'account') changed += changesOf(statements.updateAccount.run(this.#random(1000), this.#moment(), id));
      else changed += changesOf(statements.updatePurchase.run(this.#status(), this.#random(90) + 1, id));
    }
    return changed;
  }

  #words(length: number): string {
    const from = this.#random(this.#text.length - length);
    return this.#text.slice(from, from + length);
  }

  #status(): string {
    return STATUSES[this.#random(STATUSES.length)] as string;
  }

  #moment(): string {
    return new Date(1_700_000_000_000 + this.#random(2 ** 31) * 20).toISOString();
  }

  #transaction(work: () => number): number {
    this.#db.exec('BEGIN');
    const changed = work();
    this.#db.exec('COMMIT');
    return changed;
  }
}

function changesOf({ changes }: { readonly changes: number | bigint }): number {
  return Number(changes);
}
