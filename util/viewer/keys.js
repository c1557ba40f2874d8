// The keys of the labelling page and of reports, by what they do. A key means the same in both, and what only one of both has, no key of the
// other means. Both load this file as it is.
'use strict';
globalThis.viewerKeys = {
  'next scan': ['n'], 'scan before': ['b'], 'view': ['v'], 'outlines': ['h'], 'lines': ['d'], 'reset': ['0'],
  'left': ['ArrowLeft'], 'right': ['ArrowRight'], 'up': ['ArrowUp'], 'down': ['ArrowDown'], 'next slice': ['PageUp'], 'slice before': ['PageDown'],
  // of reports
  'probability': ['q'], 'truth': ['.'], 'registered support': [','],
  // of the page
  'look': ['l'], 'pen': ['p'], 'filled': ['f'], 'polygon': ['g'], 'eraser': ['e'], 'filled eraser': ['r'], 'inside': ['a'], 'outside': ['z'],
  'thinner': ['['], 'wider': [']'], 'undo': ['u'], 'redo': ['y'], 'fill': ['i'], 'copy': ['c'], 'grow': ['w'], 'next slice worth drawing': ['j'],
  'slice is right': ['k'], 'zoom in': ['+', '='], 'zoom out': ['-'], 'cross': ['t'], 'run': ['o'], 'stop': ['s'], 'export': ['x'], 'flag': ['m'],
  'keys': ['?'],
};
/** What is given for each of some actions, by the keys of that action. */
globalThis.byKey = given => Object.fromEntries(Object.entries(given).flatMap(([action, does]) => globalThis.viewerKeys[action].map(key => [key, does])));
