-- Of 50 columns a merge costs as much as the insert. With this base it takes some thirty inserts at once, not eighteen.
ALTER TABLE events MODIFY SETTING merge_selector_base = 60
