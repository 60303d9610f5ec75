// One response serves every threshold.
//
// The server keeps scores strictly above the threshold, best first; a box is suppressed only by a better one, and
// `max_detections` cuts the end. So the response to a higher threshold is a prefix of the response to a lower one.
// (Scores are rounded to six digits: only one equal to the threshold in all of them could be treated differently.)

const LOWEST = 0.05;

/** The threshold sent to a model: the lowest of the slider. */
export const lowestOf = (model) => Math.min(LOWEST, model.defaults.box_threshold);

/** The `detections`, best first, that the server would return for `threshold`. */
export const above = (detections, threshold) => detections.filter(({ score }) => score > threshold);
