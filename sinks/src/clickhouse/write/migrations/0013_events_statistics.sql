-- Look-ups go by the order and the indexes. Statistics of every column would be made with each insert and each merge.
ALTER TABLE events MODIFY SETTING auto_statistics_types = ''
