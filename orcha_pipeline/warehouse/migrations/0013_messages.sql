-- How long a message is held up by a channel that fails: not the time that it waited for its digest or a quiet hour's end.

ALTER TABLE alert_messages ADD COLUMN held_since TIMESTAMP;    -- when its channel first failed while it was due

UPDATE alert_messages SET held_since = queued_at WHERE attempts > 0;

-- From now on the end of an alert is told to those who were told of it, even where another came to stand for it. Of
-- those that are over nobody need hear any more.
UPDATE alerts SET end_announced_at = resolved_at
WHERE resolved_at IS NOT NULL AND announced_at IS NOT NULL AND end_announced_at IS NULL AND group_id IS NOT NULL;
