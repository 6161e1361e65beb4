/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes on the links where experts are resident, for the traffic of layouts. */
#ifndef NEAP_HOME_TRAFFIC_H
#define NEAP_HOME_TRAFFIC_H

#include "layout/layout.h"

/* Of a layout whose slots fetch what is neither at home on their rank nor in base (may be NULL)
 * from the home in their run of ranks: as neap_layout_traffic. */
int neapi_home_traffic(const neap_layout *layout, const neap_layout *base, const double *bytes,
                       double *ports, double *uplinks);

#endif
