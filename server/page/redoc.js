// ReDoc of this server's own document.
const element = document.getElementById("api");
Redoc.init(element.dataset.openapi, { disableSearch: false, hideLoading: true, nativeScrollbars: true }, element);
