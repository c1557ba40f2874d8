// Numbers to judge found outlines by: volumes against those of the outlined scans and of the other scans, and where to look first.

const ODD = 2;           // times another volume, or so little of it: a volume to doubt
const FEW = 3;           // volumes that have a median worth the name

function median(numbers) {
  const sorted = [...numbers].sort((one, other) => one - other), half = sorted.length / 2;
  return (sorted[Math.ceil(half) - 1] + sorted[Math.floor(half)]) / 2;
}

/** How often the volume of a class is that of the outlined scans, and the median of what was found in all scans; null if not known. */
export function shares(row, scans) {
  const volumes = scans.flatMap(scan => scan.rows.filter(one => one.label === row.label && one.volume_ml > 0).map(one => one.volume_ml));
  const share = whole => (row.volume_ml == null || !whole ? null : row.volume_ml / whole);
  return { outlined: share(row.outlined_ml), median: volumes.length < FEW ? null : share(median(volumes)) };
}

export const isOdd = share => share !== null && (share > ODD || share < 1 / ODD);

export const times = share => (share === null ? '–' : `${share.toFixed(1)} ×`);

/** What is odd about the volume of a class, in words: '2.3 times the median', '1.8 times the outlined scan'. */
export function oddWords(row, scans) {
  const { outlined, median: group } = shares(row, scans);
  return [...(isOdd(group) ? [`${group.toFixed(1)} times the median`] : []),
          ...(isOdd(outlined) ? [`${outlined.toFixed(1)} times the outlined scan's`] : [])].join(', ');
}

/** The row of the least certain class that can be looked at; undefined if there is none. */
export function leastCertain(rows) {
  const known = rows.filter(row => row.confidence != null && (row.slices || row.look_at));
  return known.sort((one, other) => one.confidence - other.confidence)[0];
}
