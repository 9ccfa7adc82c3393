-- To merge bodies is to pack them anew, which costs as much as the insert. Up to 16 GiB, a row is written twice after its
-- insert. A larger part would serve no look-up better, because each holds times of its own.
ALTER TABLE raw MODIFY SETTING merge_selector_base = 60, max_bytes_to_merge_at_max_space_in_pool = 17179869184
