"""NiiVue, the viewer of volumes in a browser, which the report and the labelling page share."""
