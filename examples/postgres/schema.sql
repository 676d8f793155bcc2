-- The table that is cached, and what makes it tell of its changes.

CREATE TABLE users (
    -- A notification carries less than 8000 bytes: a longer one is an error that fails the
    -- transaction. A key of the cache has 1 to 1024, which therefore must hold for what is its key.
    id   text PRIMARY KEY CHECK (octet_length(id) BETWEEN 1 AND 1024),
    name text NOT NULL
);

-- Notifications go out when the transaction commits, and never if it does not. A key that changed
-- several times in one transaction is told once.
CREATE FUNCTION tell_users_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        PERFORM pg_notify('users_changed', ''); -- no key: all of them
        RETURN NULL;
    END IF;
    IF TG_OP <> 'INSERT' THEN -- a deleted row, or one whose id changed: what is cached under its old id
        PERFORM pg_notify('users_changed', OLD.id);
    END IF;
    IF TG_OP <> 'DELETE' THEN -- a new row too: it may be cached that there is none
        PERFORM pg_notify('users_changed', NEW.id);
    END IF;
    RETURN NULL; -- nobody looks at what a trigger returns that runs afterwards
END
$$;

CREATE TRIGGER users_changed AFTER INSERT OR UPDATE OR DELETE ON users
    FOR EACH ROW EXECUTE FUNCTION tell_users_changed();
CREATE TRIGGER users_truncated AFTER TRUNCATE ON users
    FOR EACH STATEMENT EXECUTE FUNCTION tell_users_changed();
