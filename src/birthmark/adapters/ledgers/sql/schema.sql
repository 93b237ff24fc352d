-- The embedded ledger. `entry` is the truth; `vault` holds sealed keys and is no fold; every other table is a fold of
-- the entries and is rebuilt by replay. Hot tables grow at their end only: no random index on certificates or keys.

CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
-- format, origin, site_prefix, software

CREATE TABLE head (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  size INTEGER NOT NULL,              -- entries in the log
  serial_time INTEGER NOT NULL,       -- the last milliseconds used in a certificate serial prefix
  published INTEGER NOT NULL,         -- entries covered by the last signed checkpoint
  frontier BLOB NOT NULL,             -- tlog.Frontier of `published` entries
  checkpoint BLOB NOT NULL            -- the last signed checkpoint (signed note), empty at first
);

-- The log: `count` entries from `first`, each with a big-endian uint16 length in front, and their leaf hashes.
CREATE TABLE entry (
  first INTEGER PRIMARY KEY,
  count INTEGER NOT NULL,
  body BLOB NOT NULL,
  leaf_hashes BLOB NOT NULL
);

CREATE TABLE station (station TEXT PRIMARY KEY, vkey TEXT NOT NULL, seq INTEGER NOT NULL) WITHOUT ROWID;

CREATE TABLE ca (
  ca TEXT PRIMARY KEY, kind TEXT NOT NULL, issuer TEXT, certificate BLOB NOT NULL, seq INTEGER NOT NULL,
  site TEXT
) WITHOUT ROWID;

CREATE TABLE template (
  template TEXT PRIMARY KEY, ca TEXT NOT NULL, profile TEXT NOT NULL, body BLOB NOT NULL, seq INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE "order" (
  "order" TEXT PRIMARY KEY, product TEXT NOT NULL, profile TEXT NOT NULL, key_algorithm TEXT NOT NULL,
  key_origin TEXT NOT NULL, ca TEXT NOT NULL, quantity INTEGER NOT NULL, chunks INTEGER NOT NULL, seq INTEGER NOT NULL
) WITHOUT ROWID;

-- At most 512 devices that are reserved, signed and stored together. Their serials are in entry `seq`.
CREATE TABLE chunk (
  "order" TEXT NOT NULL, chunk INTEGER NOT NULL, first INTEGER NOT NULL, count INTEGER NOT NULL,
  seq INTEGER NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('ordered', 'reserved', 'issued', 'consigned')),
  intent INTEGER,                     -- of the reservation in force
  PRIMARY KEY ("order", chunk)
) WITHOUT ROWID;

-- The certificates: one row an intent. `records` is count x (random 8 | SPKI SHA-256 32 | TBS SHA-256 32);
-- a certificate serial is serial_prefix | random. issued_seq is the log index of the first certificate.
-- Certificates that somebody else signs have a `source`, no serial_prefix, and records of
-- count x (SPKI SHA-256 32 | request SHA-256 32).
CREATE TABLE certificate (
  intent INTEGER PRIMARY KEY,
  "order" TEXT NOT NULL, chunk INTEGER, device_serial TEXT,
  count INTEGER NOT NULL, template TEXT NOT NULL,
  serial_prefix BLOB UNIQUE,          -- grows, so that the index is appended to
  records BLOB NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('reserved', 'issued', 'abandoned')),
  issued_seq INTEGER, source TEXT
);
CREATE INDEX certificate_open ON certificate (intent) WHERE state = 'reserved';

-- One row a device. state, intent and position are NULL while the chunk speaks for the device.
CREATE TABLE device (
  device_serial TEXT PRIMARY KEY,
  "order" TEXT NOT NULL, chunk INTEGER NOT NULL, place INTEGER NOT NULL, -- place within the chunk
  state TEXT, intent INTEGER, position INTEGER, attempt TEXT
) WITHOUT ROWID;

CREATE TABLE attempt (
  attempt TEXT PRIMARY KEY, device_serial TEXT NOT NULL, kind TEXT NOT NULL, seq INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE revoked (
  cert_serial BLOB PRIMARY KEY, device_serial TEXT NOT NULL, reason TEXT NOT NULL, seq INTEGER NOT NULL
) WITHOUT ROWID;

-- Sorted runs of all SPKI hashes (files beside the ledger), up to and with intent `covered`. A cache: rebuilt if missing.
CREATE TABLE key_run (
  run INTEGER PRIMARY KEY, file TEXT NOT NULL, covered INTEGER NOT NULL,
  count INTEGER NOT NULL, sha256 BLOB NOT NULL
);

-- Sealed private keys: no fold, never in the log.
CREATE TABLE vault (
  intent INTEGER PRIMARY KEY, encapsulated BLOB NOT NULL, slot_size INTEGER NOT NULL, slots BLOB NOT NULL
);

CREATE INDEX device_touched ON device ("order", chunk, state) WHERE state IS NOT NULL;

-- Authority: its sites. reported, root: the last head of the site's log that was verified; settled: entries folded.
CREATE TABLE site (
  site TEXT PRIMARY KEY, origin TEXT NOT NULL UNIQUE, vkey TEXT NOT NULL, site_prefix TEXT NOT NULL UNIQUE,
  mode TEXT NOT NULL, stopped TEXT, reported INTEGER NOT NULL, root TEXT NOT NULL, settled INTEGER NOT NULL,
  seq INTEGER NOT NULL
) WITHOUT ROWID;

-- At most one site makes an order.
CREATE TABLE assignment ("order" TEXT PRIMARY KEY, site TEXT NOT NULL, mode TEXT NOT NULL, seq INTEGER NOT NULL) WITHOUT ROWID;

-- Keys that the service lets in.
CREATE TABLE access (
  spki_sha256 TEXT PRIMARY KEY, name TEXT NOT NULL, role TEXT NOT NULL, site TEXT, withdrawn TEXT, seq INTEGER NOT NULL
) WITHOUT ROWID;

-- Bundles: sealed here (authority) or opened here (site).
CREATE TABLE bundle (
  bundle TEXT PRIMARY KEY, "order" TEXT NOT NULL, site TEXT, devices INTEGER NOT NULL, seq INTEGER NOT NULL
) WITHOUT ROWID;

-- Authority: the entry of the site's log that brought a device to its state.
CREATE TABLE settled (device_serial TEXT PRIMARY KEY, site TEXT NOT NULL, site_seq INTEGER NOT NULL) WITHOUT ROWID;

-- Keys born at sites that sign themselves, and in chips of a vendor, count x (SPKI SHA-256 32 | zeros 32) an event.
CREATE TABLE site_key (seq INTEGER PRIMARY KEY, requests BLOB NOT NULL);

CREATE TABLE finding (
  seq INTEGER PRIMARY KEY, site TEXT NOT NULL, code TEXT NOT NULL, device_serial TEXT, entry INTEGER
);

-- Whose approvals count; the last row is in force.
CREATE TABLE approvers (seq INTEGER PRIMARY KEY, threshold INTEGER NOT NULL, vkeys TEXT NOT NULL);

-- Plans that approvals were used for: each once.
CREATE TABLE approval (plan_sha256 TEXT PRIMARY KEY, action TEXT NOT NULL, seq INTEGER NOT NULL) WITHOUT ROWID;

-- Manifests of vendors: each is taken in once.
CREATE TABLE preload_file (
  manifest_sha256 TEXT PRIMARY KEY, vendor TEXT NOT NULL, form TEXT NOT NULL, count INTEGER NOT NULL,
  chunks INTEGER NOT NULL, seq INTEGER NOT NULL
) WITHOUT ROWID;

-- Identities that vendors made. `seq`: the entry with the certificate; `bound`: the entry that binds it to a device.
CREATE TABLE preload (
  spki_sha256 BLOB PRIMARY KEY, cert_sha256 BLOB NOT NULL, vendor TEXT NOT NULL, unique_id TEXT NOT NULL,
  ca TEXT NOT NULL, seq INTEGER NOT NULL, device_serial TEXT, bound INTEGER
) WITHOUT ROWID;
CREATE UNIQUE INDEX preload_id ON preload (vendor, lower(unique_id));
CREATE INDEX preload_bound ON preload (device_serial) WHERE device_serial IS NOT NULL;

-- CAs whose keys vendors hold below one of ours: how many identities each may sign, and how many were taken in.
CREATE TABLE vendor_ca (
  ca TEXT PRIMARY KEY, vendor TEXT NOT NULL, quota INTEGER NOT NULL, used INTEGER NOT NULL, seq INTEGER NOT NULL
) WITHOUT ROWID;
