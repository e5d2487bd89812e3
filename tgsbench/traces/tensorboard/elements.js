/* Custom elements as they were in 2014 (document.registerElement), for the trace viewer in torch-tb-profiler.

   Browsers dropped that first version; the viewer's Polymer 1 is written for it and, where it is missing, for
   a polyfill's `window.CustomElements`. This is the part that the viewer calls: elements are upgraded by
   exchanging their prototype, and a MutationObserver tells them when they come and go. */
(function () {
  'use strict';
  const definitions = new Map();
  const createElement = Document.prototype.createElement;
  const isElement = (node) => node.nodeType === Node.ELEMENT_NODE;

  function definitionOf(element) {
    const tag = element.localName;
    const is = element.getAttribute('is');
    const found = (is && definitions.get(is.toLowerCase())) || definitions.get(tag);
    return found && found.tag === tag ? found : undefined;
  }

  function call(element, name, ...args) {
    if (typeof element[name] === 'function') element[name](...args);
  }

  function upgrade(element) {
    const found = !element.__upgraded__ && definitionOf(element);
    if (!found) return;
    Object.setPrototypeOf(element, found.prototype);
    element.__upgraded__ = true;
    if (element.attributeChangedCallback) tellOfAttributes(element);
    call(element, 'createdCallback');
  }

  function tellOfAttributes(element) {
    for (const name of ['setAttribute', 'removeAttribute']) {
      element[name] = function (attribute, ...value) {
        const before = this.getAttribute(attribute);
        Element.prototype[name].call(this, attribute, ...value);
        const after = this.getAttribute(attribute);
        if (before !== after) this.attributeChangedCallback(attribute, before, after);
      };
    }
  }

  function each(root, visit) {
    if (isElement(root)) visit(root);
    if (!root.querySelectorAll) return;
    for (const element of root.querySelectorAll('*')) visit(element);
  }

  const upgradeAll = (root) => each(root, upgrade);

  function attach(element) {
    upgrade(element);
    if (!element.__upgraded__ || element.__attached || !document.contains(element)) return;
    element.__attached = true;
    call(element, 'attachedCallback');
  }

  function detach(element) {
    if (!element.__attached || document.contains(element)) return;
    element.__attached = false;
    call(element, 'detachedCallback');
  }

  function handle(records) {
    for (const record of records) {
      for (const node of record.addedNodes) each(node, attach);
      for (const node of record.removedNodes) each(node, detach);
    }
  }

  const observer = new MutationObserver(handle);
  const takeRecords = () => {
    for (let records = observer.takeRecords(); records.length; records = observer.takeRecords()) handle(records);
  };

  document.registerElement = function (name, options = {}) {
    const prototype = options.prototype || Object.create(HTMLElement.prototype);
    const tag = (options.extends || name).toLowerCase();
    name = name.toLowerCase();
    if (definitions.has(name)) throw new Error(`${name} is registered already`);
    definitions.set(name, { prototype, tag });
    each(document, attach);
    const construct = () => document.createElement(tag, options.extends && name);
    construct.prototype = prototype;
    return construct;
  };

  Document.prototype.createElement = function (tag, is) {
    // Only elements with a dash in their name may hold a shadow today; the viewer's overlay holds one.
    const element = createElement.call(this, tag === 'overlay' ? 'viewer-overlay' : tag);
    if (typeof is === 'string') element.setAttribute('is', is);
    upgrade(element);
    return element;
  };

  for (const [owner, name] of [[Node, 'cloneNode'], [Document, 'importNode']]) {
    const plain = owner.prototype[name];
    owner.prototype[name] = function (...args) {
      const copy = plain.apply(this, args);
      upgradeAll(copy);
      return copy;
    };
  }

  // The first shadow DOM is left in overlays alone; what marks the place of their content is a slot today.
  Element.prototype.createShadowRoot = function () {
    const root = this.attachShadow({ mode: 'open' });
    const useSlots = () => {
      for (const place of root.querySelectorAll('content')) place.replaceWith(document.createElement('slot'));
    };
    new MutationObserver(useSlots).observe(root, { childList: true });
    return root;
  };

  // HTML imports put the running script there; the viewer's scripts run in the page itself.
  Object.defineProperty(document, '_currentScript', { get: () => document.currentScript });

  // A polyfill of the first shadow DOM hides nodes behind wrappers; here there are none to take off.
  window.wrap = window.unwrap = (node) => node;

  // Browsers renamed it; the viewer's keys look at it.
  Object.defineProperty(Event.prototype, 'path', { get() { return this.composedPath(); } });

  window.CustomElements = {
    useNative: false, hasNative: false, ready: false, takeRecords, upgrade, upgradeAll, upgradeSubtree: upgradeAll,
  };

  observer.observe(document, { childList: true, subtree: true });
  document.addEventListener('DOMContentLoaded', () => {
    takeRecords();
    each(document, attach);
    window.CustomElements.ready = true;
    document.dispatchEvent(new CustomEvent('WebComponentsReady', { bubbles: true }));
  });
})();
