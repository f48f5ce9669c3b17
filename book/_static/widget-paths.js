// Tell RequireJS where the widget manager lies. It asks for its icons beside itself, and would otherwise
// look for them beside the page.
requirejs.config({
  paths: {
    "@jupyter-widgets/html-manager":
      document.documentElement.dataset.content_root + "_static/vendor/html-manager",
  },
});
