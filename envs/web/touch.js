// Where and how a page can be touched: what gestures on numbered elements need. Runs in every document, after look.js.
//
// Every function returns plain data, with a `problem` where the gesture cannot be done; `page.py` has the words for it.
"use strict";
(() => {
  const {frame, numbered, scrolls, squeeze} = window.__agentkit;
  const PLACES = [0.5, 0.25, 0.75, 0.1, 0.9]; // parts of a box's width and height

  const find = (number) => {
    const element = numbered[number];
    return element && element.isConnected && element.checkVisibility({visibilityProperty: true}) ? element : null;
  };
  const inView = (x, y) => x >= 0 && y >= 0 && x < innerWidth && y < innerHeight;
  const hits = (element, x, y) => {
    const top = inView(x, y) ? document.elementFromPoint(x, y) : null;
    return top !== null && (element.contains(top) || (top.contains(element) && top.children.length === 1) ||
      Array.from(element.labels || []).some((label) => label.contains(top)));
  };
  // The middle if it is free, else somewhere beside it: lines and rings have nothing in their middle.
  const touchable = (element) => {
    const boxes = [element.getBoundingClientRect(), ...Array.from(element.getClientRects()).slice(0, 3)];
    for (const box of boxes) for (const down of PLACES) for (const along of PLACES) {
      const x = box.x + box.width * along, y = box.y + box.height * down;
      if (hits(element, x, y)) return {x, y};
    }
    return null;
  };
  const locate = async (number) => {
    const element = find(number);
    if (element === null) return {problem: "gone"};
    if (element.disabled === true) return {problem: "disabled"};
    let point = touchable(element);
    if (point === null) {
      element.scrollIntoView({block: "center", inline: "center", behavior: "instant"});
      await frame();
      point = touchable(element);
    }
    if (point !== null) return point;
    const box = element.getBoundingClientRect();
    return inView(box.x + box.width / 2, box.y + box.height / 2) ? {problem: "covered"} : {problem: "outside"};
  };
  // Put the focus into an editable element with all its contents selected; kinds that are no text get their value set.
  const focus = (number, text) => {
    const element = find(number);
    if (element === null) return {problem: "gone"};
    if (element.disabled === true || element.readOnly === true) return {problem: "disabled"};
    if (element.isContentEditable) {
      element.focus();
      getSelection().selectAllChildren(element);
      return {};
    }
    const plain = element.tagName === "TEXTAREA" || element.tagName === "INPUT" &&
      !/^(checkbox|radio|button|submit|reset|image|file|hidden)$/.test(element.type);
    if (!plain) return {problem: "fixed"};
    element.focus();
    if (/^(range|color|date|time|month|week|datetime-local)$/.test(element.type)) {
      element.value = text;
      if (element.type !== "range" && element.type !== "color" && element.value !== text) return {problem: "refused"};
      for (const kind of ["input", "change"]) element.dispatchEvent(new Event(kind, {bubbles: true}));
      return {done: true};
    }
    element.select();
    return {};
  };
  const choose = (number, text) => {
    const element = find(number);
    if (element === null) return {problem: "gone"};
    if (element.tagName !== "SELECT") return {problem: "fixed"};
    if (element.disabled) return {problem: "disabled"};
    const option = Array.from(element.options).find((one) => squeeze(one.text) === squeeze(text)) ||
      Array.from(element.options).find((one) => one.value === text);
    if (!option || option.disabled) return {problem: "refused"};
    element.focus();
    option.selected = element.multiple ? !option.selected : true;
    for (const kind of ["input", "change"]) element.dispatchEvent(new Event(kind, {bubbles: true}));
    return {};
  };
  const scroll = async (number, point, down, along) => {
    let element = number !== null ? find(number) : point !== null ? document.elementFromPoint(...point) : null;
    if (number !== null && element === null) return {problem: "gone"};
    const candidates = [];
    if (number === null && point === null) {
      candidates.push(document.scrollingElement, ...Array.from(document.querySelectorAll("*")).filter((one) =>
        scrolls(one, getComputedStyle(one))).slice(0, 20));
    }
    for (; element; element = element.parentElement) candidates.push(element);
    for (const one of candidates) {
      if (!one) continue;
      const before = [one.scrollTop, one.scrollLeft];
      const style = getComputedStyle(one);
      if (one !== document.scrollingElement && one.tagName !== "TEXTAREA" &&
        !/auto|scroll/.test(style.overflowY + style.overflowX)) continue;
      one.scrollBy({top: down * one.clientHeight * 0.8, left: along * one.clientWidth * 0.8, behavior: "instant"});
      if (one.scrollTop !== before[0] || one.scrollLeft !== before[1]) {
        await frame();
        return {};
      }
    }
    return {problem: "still"};
  };
  const selection = () => {
    const element = document.activeElement;
    if (!element || !/^(INPUT|TEXTAREA)$/.test(element.tagName) || element.selectionStart === null)
      return String(getSelection());
    return element.value.slice(element.selectionStart, element.selectionEnd);
  };
  Object.assign(window.__agentkit, {locate, focus, choose, scroll, selection});
  Object.freeze(window.__agentkit);
})();
