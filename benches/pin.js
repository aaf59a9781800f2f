// datalab's upgrade in JavaScript: what examples/files/datalab/pin.py does, for items as the benchmark has them.

import { count, transform } from "./index.js";

transform((item, found) => {
  const others = found.refcode.filter((other) => other.refcode !== null && other.refcode !== undefined);
  const refcodes = new Map(others.map((other) => [other.item_id, other.refcode]));
  for (const entry of Array.isArray(item.relationships) ? item.relationships : []) {
    if (entry.refcode || !entry.item_id) continue;
    const refcode = refcodes.get(entry.item_id);
    const [name, value] = refcode === undefined ? ["deprecated", true] : ["refcode", refcode];
    if (entry[name] === value) continue;
    entry[name] = value;
    count(refcode === undefined ? "deprecated" : "pinned");
  }
  return item;
});
