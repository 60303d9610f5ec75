// Why one answer serves every threshold.
//
// The server keeps what scores strictly above the threshold, best first; a box is suppressed only by a better one, and
// `max_detections` cuts the end. So the answer to a higher threshold is the beginning of the answer to a lower one.
// (Scores arrive rounded to six digits: only one that equals the threshold to the last of them could fall otherwise.)

const LOWEST = 0.05;

/** The threshold to ask a model with: as low as the slider goes. */
export const lowestOf = (model) => Math.min(LOWEST, model.defaults.box_threshold);

/** Those of `detections`, best first, that the server would return for `threshold`. */
export const above = (detections, threshold) => detections.filter(({ score }) => score > threshold);
