// What a page shows. Runs in every document, after clock.js.
//
// `observe` walks the visible document in order and returns plain records; elements keep their number as long as the
// document lives. `busy` says whether the page still loads.
"use strict";
(() => {
  const CONTROLS = new Set(["A", "BUTTON", "INPUT", "SELECT", "TEXTAREA", "SUMMARY", "AREA"]);
  const WIDGETS =
    /^(button|link|checkbox|radio|tab|menuitem|option|slider|switch|textbox|combobox|treeitem|spinbutton)$/;
  const STRUCTURE = {TABLE: "table", TR: "row", UL: "list", OL: "list", FORM: "form", FIELDSET: "group",
    NAV: "navigation", DIALOG: "dialog"};
  const ROLES = {A: "link", BUTTON: "button", SELECT: "select", TEXTAREA: "textarea", IMG: "image", LI: "listitem",
    TH: "columnheader", TD: "cell", H1: "heading", H2: "heading", H3: "heading", H4: "heading",
    H5: "heading", H6: "heading", SUMMARY: "button"};
  const INPUTS = {checkbox: "checkbox", radio: "radio", range: "slider", number: "spinbutton", button: "button",
    submit: "button", reset: "button", image: "button", color: "color", date: "date", time: "time",
    password: "password", file: "file"};
  const PLAIN = new Set(["DIV", "SPAN", "P", "B", "I", "U", "EM", "STRONG", "TSPAN", "TEXT", "FONT", "SMALL", "LABEL"]);
  const UNSEEN = new Set(["SCRIPT", "STYLE", "TEMPLATE", "NOSCRIPT", "HEAD", "OPTION", "OPTGROUP", "TITLE", "DEFS"]);
  const PRESSED = new Set(["click", "mousedown", "mouseup", "pointerdown", "pointerup", "dblclick", "touchstart"]);
  const listening = new WeakSet(), numbers = new WeakMap(), numbered = [null];

  // Which elements a click can reach is only known to those who watch the listeners being added.
  const realListen = EventTarget.prototype.addEventListener;
  EventTarget.prototype.addEventListener = function (kind, ...given) {
    if (PRESSED.has(kind) && this instanceof Element) listening.add(this);
    return realListen.call(this, kind, ...given);
  };
  // Where the page has begun to leave for another document; jumps within it and downloads do not count.
  let leaving = false;
  if (window.navigation) realListen.call(window.navigation, "navigate", (event) => {
    if (!event.destination.sameDocument && event.downloadRequest === null) leaving = true;
  });
  realListen.call(window, "submit", (event) => { if (!event.defaultPrevented) leaving = true; });

  const still = new CSSStyleSheet();
  still.replaceSync("*, *::before, *::after { transition: none !important; animation: none !important;" +
    " caret-color: transparent !important; scroll-behavior: auto !important; }");
  document.adoptedStyleSheets = [still];

  // Pictures that style sheets show only under the mouse are fetched early: one that arrived between two events of a
  // click would move what is being clicked.
  const pictures = [], MOST_PICTURES = 200;
  const fetchPicture = (url) => {
    if (pictures.length < MOST_PICTURES) pictures.push(Object.assign(new Image(), {src: url}));
  };
  realListen.call(window, "load", () => {
    for (const sheet of document.styleSheets) {
      let rules = [];
      try { rules = sheet.cssRules; } catch { continue; } // a sheet of another origin keeps its rules to itself
      for (const rule of rules) for (const [, url] of rule.cssText.matchAll(/url\("([^"]+)"\)/g)) {
        fetchPicture(new URL(url, sheet.href || document.baseURI));
      }
    }
  });
  const busy = () => leaving || document.readyState !== "complete" ||
    [...pictures, ...document.images].some((picture) => !picture.complete);

  const squeeze = (text) => (text || "").replace(/\s+/g, " ").trim();
  const shown = (element) => element.checkVisibility({opacityProperty: true, visibilityProperty: true});
  const isSvg = (element) => element instanceof SVGElement && element.tagName.toLowerCase() !== "svg";
  const numberOf = (element) => {
    if (!numbers.has(element)) numbers.set(element, numbered.push(element) - 1);
    return numbers.get(element);
  };
  const pointerBegins = (element, style) => style.cursor === "pointer" &&
    !(element.parentElement && getComputedStyle(element.parentElement).cursor === "pointer");
  const interactive = (element, style) =>
    (CONTROLS.has(element.tagName) && element.type !== "hidden") || WIDGETS.test(element.getAttribute("role") || "") ||
    element.isContentEditable && !(element.parentElement && element.parentElement.isContentEditable) ||
    element.draggable && element.tagName !== "IMG" || element.hasAttribute("onclick") || element.onclick !== null ||
    element.tabIndex >= 0 || pointerBegins(element, style);
  const scrolls = (element, style) => element.clientHeight > 0 && element.scrollHeight > element.clientHeight + 1 &&
    (element.tagName === "TEXTAREA" || /auto|scroll/.test(style.overflowY));
  const roleOf = (element, press) => {
    const given = element.getAttribute("role");
    if (given && /^[a-z]{1,20}$/.test(given) && given !== "presentation" && given !== "none") return given;
    if (element.tagName === "INPUT") return INPUTS[element.type] || "textbox";
    if (element.isContentEditable) return "textbox";
    if (PLAIN.has(element.tagName.toUpperCase())) return press ? "clickable" : "text";
    return ROLES[element.tagName] || STRUCTURE[element.tagName] || element.tagName.toLowerCase().slice(0, 20);
  };
  const colourOf = (element, style) => {
    const colour = isSvg(element) ? (style.fill !== "none" ? style.fill : style.stroke) : style.backgroundColor;
    return /^rgba\(.*, 0\)$/.test(colour) ? "" : colour.slice(0, 40);
  };
  const nameOf = (element) => {
    const label = element.getAttribute("aria-label") || (element.labels && element.labels.length ?
      Array.from(element.labels, (one) => one.innerText).join(" ") : "");
    if (squeeze(label)) return squeeze(label);
    if (element.tagName === "INPUT") return /^(button|submit|reset)$/.test(element.type) ? squeeze(element.value) :
      squeeze(element.title || element.alt || (/^(checkbox|radio)$/.test(element.type) ? "" : element.name));
    if (element.tagName === "SELECT" || element.tagName === "TEXTAREA" || element.isContentEditable)
      return squeeze(element.title || element.name || "");
    if (element.tagName === "IMG") return squeeze(element.alt || element.title) || element.src.split("/").pop();
    if (getComputedStyle(element).fontSize === "0px") return ""; // how pages hide what is not to be read yet
    return squeeze(isSvg(element) ? element.textContent : element.innerText) || squeeze(element.title || "");
  };
  const valueOf = (element) => {
    if (element.isContentEditable) return element.innerText;
    if (element.tagName === "SELECT") return squeeze(Array.from(element.selectedOptions, (one) => one.text).join(", "));
    if (element.tagName === "TEXTAREA") return element.value;
    if (element.tagName !== "INPUT" || /^(checkbox|radio|button|submit|reset|image)$/.test(element.type)) return null;
    return element.type === "password" ? "•".repeat(element.value.length) : element.value;
  };
  const statesOf = (element, style) => {
    const told = (name) => element.getAttribute(`aria-${name}`) === "true";
    const states = [];
    if (element.checked === true || told("checked")) states.push("checked");
    if (told("selected") || told("pressed")) states.push("selected");
    if (element.hasAttribute("aria-expanded")) states.push(told("expanded") ? "expanded" : "collapsed");
    if (element.disabled === true || told("disabled")) states.push("disabled");
    if (element.readOnly === true) states.push("read-only");
    if (document.activeElement === element && element !== document.body) states.push("focused");
    if (scrolls(element, style)) states.push("scrollable");
    return states;
  };

  const observe = ({ignore, most, longest}) => {
    const records = [];
    let missing = 0;
    const emit = (record) => { if (records.length < most) records.push(record); else missing++; };
    const cut = (text) => text.length <= longest ? text :
      text.slice(0, longest) + `… (${text.length - longest} more characters)`;
    const record = (element, style, depth, name, press, bare) => {
      const box = element.getBoundingClientRect(), value = valueOf(element);
      const options = element.tagName === "SELECT" ? Array.from(element.options).slice(0, 200) : [];
      return {
        number: numberOf(element), role: roleOf(element, press), tag: element.tagName.toLowerCase().slice(0, 40),
        id: String(element.id).slice(0, 100), classes: (element.getAttribute("class") || "").slice(0, 200),
        name: cut(name), value: value === null ? null : cut(value), hint: cut(squeeze(element.placeholder)),
        states: statesOf(element, style), options: options.map((option) => cut(squeeze(option.text))),
        x: Math.round(box.x + box.width / 2), y: Math.round(box.y + box.height / 2),
        width: Math.round(box.width), height: Math.round(box.height), colour: colourOf(element, style),
        depth, press: press && element.disabled !== true, bare,
      };
    };
    const visitText = (node, depth) => {
      const text = squeeze(node.data);
      if (text && shown(node.parentElement) && !(node.parentElement.tagName === "LABEL" && node.parentElement.control &&
        shown(node.parentElement.control))) emit({text: cut(text), depth});
    };
    const visit = (element, depth) => {
      if (UNSEEN.has(element.tagName.toUpperCase()) || (ignore && element.matches(ignore))) return;
      if (!element.checkVisibility({opacityProperty: true})) return;
      const style = getComputedStyle(element), box = element.getBoundingClientRect();
      const seen = style.visibility === "visible" && box.width > 0 && box.height > 0;
      const control = interactive(element, style), press = control || listening.has(element);
      const inner = Array.from(element.children).filter((child) => !UNSEEN.has(child.tagName.toUpperCase()));
      const whole = CONTROLS.has(element.tagName) || element.isContentEditable || inner.length === 0;
      let deeper = depth;
      if (seen && element !== document.body) {
        // A simple element is one line with all that it holds; of others each part has its own.
        const simple = whole || (control && !Array.from(element.querySelectorAll("*")).some((one) =>
          listening.has(one) || interactive(one, getComputedStyle(one))));
        const name = simple ? nameOf(element) : squeeze(element.getAttribute("aria-label") || element.title || "");
        const drawn = element.tagName === "CANVAS" || element.tagName === "IMG" ||
          (isSvg(element) && element.tagName !== "g");
        const labelling = element.tagName === "LABEL" && element.control && shown(element.control);
        if (labelling && simple && inner.length === 0) return; // its control is told by this name
        const worth = simple ? control || name || drawn || press || colourOf(element, style) :
          (control && !labelling) || (press && drawn);
        const structure = STRUCTURE[element.tagName] || element.getAttribute("role") === "dialog";
        if (worth) {
          const felt = press || isSvg(element) || (simple && style.cursor === "pointer");
          emit(record(element, style, depth, name, felt, simple));
          if (simple) return;
        } else if (structure || scrolls(element, style)) {
          emit(record(element, style, depth, name, false, false));
        }
        if (worth || structure || scrolls(element, style)) deeper = depth + 1;
      }
      for (const child of element.childNodes) {
        if (child.nodeType === Node.TEXT_NODE) visitText(child, deeper);
        else if (child instanceof Element) visit(child, deeper);
      }
    };
    if (document.body) visit(document.body, 0);
    return {records, missing};
  };

  Object.assign(window.__agentkit, {observe, numbered, scrolls, squeeze, busy, stay: () => { leaving = false; }});
})();
