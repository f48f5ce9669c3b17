// ipywidgets asks for the Hub of MathJax 2 when it draws a label. MathJax 3 has none and replaces window.MathJax
// when it starts, so whatever is put there is given a Hub that hands the label on.
(() => {
  const hub = { Queue: ([, , element]) => window.MathJax.typesetPromise?.([element]) };
  const withHub = (value) => Object.assign(value, { Hub: value.Hub ?? hub });
  let current = withHub(window.MathJax ?? {});
  Object.defineProperty(window, "MathJax", {
    configurable: true,
    get: () => current,
    set: (value) => (current = withHub(value)),
  });
})();
