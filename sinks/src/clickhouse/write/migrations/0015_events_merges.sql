-- From an insert of 0.5 MB to a part of 150 GB, a row is written four times instead of five or six.
ALTER TABLE events MODIFY SETTING merge_selector_base = 20
