-- Responses, conversations and chat completions, and the items that they consist of.
CREATE TABLE objects (
    seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant TEXT NOT NULL,
    id TEXT NOT NULL,
    kind TEXT NOT NULL,
    model TEXT NOT NULL,
    status TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    used_at BIGINT NOT NULL,
    -- Set while a server works on the object; when it has passed, that server is gone.
    lease_until BIGINT,
    -- The response that this one continues.
    previous_id TEXT,
    -- The conversation that this response belongs to, and the number of its items before the response.
    conversation_id TEXT,
    conversation_len BIGINT,
    -- The date that the conversation's system message says.
    date TEXT NOT NULL,
    -- Deleted, and kept only because other responses continue it.
    hidden BOOLEAN NOT NULL DEFAULT FALSE,
    body TEXT NOT NULL,
    -- The stream's events, packed.
    events TEXT NOT NULL,
    size BIGINT NOT NULL,
    UNIQUE (tenant, id)
);
CREATE INDEX objects_previous ON objects (tenant, previous_id);
CREATE INDEX objects_kind ON objects (tenant, kind, seq);
CREATE INDEX objects_used ON objects (used_at, seq);
CREATE INDEX objects_lease ON objects (lease_until);

CREATE TABLE items (
    object BIGINT NOT NULL REFERENCES objects (seq) ON DELETE CASCADE,
    position BIGINT NOT NULL,
    id TEXT NOT NULL,
    output BOOLEAN NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (object, position)
);
CREATE INDEX items_id ON items (id);
