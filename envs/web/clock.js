// Time and chance of a page, in our hands. Runs in every document before the page's own scripts.
//
// The page's clock stands still until `__agentkit.advance(ms)` is awaited; timers and animation frames come due in
// order of their times, so that the same actions always meet the same page. `Math.random` starts from a fixed seed.
// Left out: timers given as text, and the time stamps of events, which stay real.
"use strict";
(() => {
  const START = Date.UTC(2024, 0, 1, 12), FRAME_MS = 16, MOST_TIMERS = 20000;
  const RealDate = Date, realFrame = window.requestAnimationFrame.bind(window);
  const timers = new Map(); // id -> {due, every, run}; a Map keeps the order in which they were set
  let now = START, last = 0;

  const add = (run, delay, every) => {
    const wait = Math.max(1, Number(delay) || 0); // at least 1 ms, or a timer that sets itself again would never end
    timers.set(++last, {due: now + wait, every: every ? wait : 0, run});
    return last;
  };
  const timer = (every) => (run, delay, ...given) =>
    add(typeof run === "function" ? () => run(...given) : () => {}, delay, every);
  const cancel = (id) => { timers.delete(Number(id)); };
  window.setTimeout = timer(false);
  window.setInterval = timer(true);
  window.clearTimeout = window.clearInterval = window.cancelAnimationFrame = window.cancelIdleCallback = cancel;
  window.requestAnimationFrame = (run) => add(() => run(now - START), FRAME_MS - (now - START) % FRAME_MS);
  window.requestIdleCallback = (run) => add(() => run({didTimeout: false, timeRemaining: () => 1}), 1);
  performance.now = () => now - START;

  window.Date = new Proxy(RealDate, {
    apply: () => new RealDate(now).toString(),
    construct: (target, given, kind) => Reflect.construct(target, given.length ? given : [now], kind),
    get: (target, key) => key === "now" ? () => now : Reflect.get(target, key),
  });
  RealDate.prototype.constructor = window.Date;

  let state = 1;
  Math.random = () => { // mulberry32
    state = state + 0x6D2B79F5 | 0;
    let mixed = Math.imul(state ^ state >>> 15, 1 | state);
    mixed = mixed + Math.imul(mixed ^ mixed >>> 7, 61 | mixed) ^ mixed;
    return ((mixed ^ mixed >>> 14) >>> 0) / 4294967296;
  };

  const nextDue = (until) => {
    let first = null;
    for (const [id, {due}] of timers) if (due <= until && (first === null || due < timers.get(first).due)) first = id;
    return first;
  };
  const advance = async (ms) => {
    const until = now + ms;
    let ran = 0;
    for (let id; ran < MOST_TIMERS && (id = nextDue(until)) !== null; ran++) {
      const due = timers.get(id);
      now = Math.max(now, due.due);
      if (due.every) due.due = now + due.every; else timers.delete(id);
      try { due.run(); } catch (error) { console.error(error); } // a page's own mistake stays its own
      await null; // lets what the timer promised happen before the next one
    }
    now = until;
    return ran;
  };
  // One frame of real time: scroll events are only told with the next frame.
  const frame = () => new Promise((done) => { realFrame(() => done()); });
  Object.defineProperty(window, "__agentkit", {value: {advance, frame}});
})();
