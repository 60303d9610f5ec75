"""`openset label`: detections of many pictures as data sets, drawn pictures and a report."""
